"""Training of LoRAs for the AsymmDiT. The frozen model is the one that makes videos; all else is put around it here."""
