"""Data sets: embedded Fashion-MNIST, image folders with the layout of ImageNet, compositions."""
