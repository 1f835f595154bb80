"""What providers share: BatchNorm taps, losses and the loop that optimises pixels."""
