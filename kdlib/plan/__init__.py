"""What is to be run: sources of images, methods, runs and studies. Nothing in here needs torch."""
