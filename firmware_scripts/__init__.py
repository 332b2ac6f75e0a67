"""What is put on a machine before our Python starts; images and services come with the boards that need them."""
