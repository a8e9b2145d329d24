"""The world of shapes: exact clips, their captions, and a checker that reads clips back."""
