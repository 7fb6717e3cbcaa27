"""What a bundle's consumer imports."""
