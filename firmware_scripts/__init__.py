"""What is put on a machine before our Python starts: services now, images and flashing to come."""
