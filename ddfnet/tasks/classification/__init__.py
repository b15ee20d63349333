"""Classification of images, from the pictures' labels to top-1."""
