"""The course: from an image as numbers to semantic segmentation, in twelve lessons, each a notebook
in English and in Spanish.

A lesson is written once, in `lessons/NN.md`: its texts in both languages side by side, its code
once. `python -m experiments.course --write NN` makes both notebooks of it, and runs them.
"""
