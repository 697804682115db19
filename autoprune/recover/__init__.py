"""Getting the accuracy back: norm recalibration and fine-tuning with distillation."""
