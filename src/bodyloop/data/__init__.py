"""Data sets: readers of published formats, augmentation, CropCOCO. numpy and OpenCV only, no torch."""
