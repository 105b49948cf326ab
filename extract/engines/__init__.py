"""What runs the network on a device, and how the fastest engine and batch size are found."""
