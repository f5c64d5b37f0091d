"""What a trained model is worth: predictions, metrics, thresholds, organ Dice."""
