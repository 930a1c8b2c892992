"""What files hold: scenes, labelled images, objects; augmentation, batches."""
