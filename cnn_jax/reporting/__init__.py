"""Tables, figures, comparisons and pages, all made from records alone."""
