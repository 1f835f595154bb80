"""What providers share: BatchNorm taps, losses, augmentations and the loop that optimises pixels."""
