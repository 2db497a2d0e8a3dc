"""`python -m fastrnn compare`: the plain RNN, the GRU and the LSTM side by side, and the claims about them tested."""
