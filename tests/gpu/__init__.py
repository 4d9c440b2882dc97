"""What is verified on the first machine with a GPU; without one the same code runs on the emulated device in small."""
