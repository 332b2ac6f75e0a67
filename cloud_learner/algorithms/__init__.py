"""How a batch becomes an update: one file per algorithm, behind one small seam (`algorithm.py`)."""
