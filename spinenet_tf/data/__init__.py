"""Data sets: preparation, TFRecord, augmentation, input pipeline."""
