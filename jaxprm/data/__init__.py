"""Step-labelled data: readers, splits, host examples, and the packed input pipeline."""
