"""The dense head of transfer-learning notebooks: two hidden layers, trained with torch."""
