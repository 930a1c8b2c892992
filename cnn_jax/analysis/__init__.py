"""What a network is, layer by layer: sizes, work, receptive fields, attribution."""
