"""Watches a fleet: what every board does, and how fast; read `fleet.py` first.

fleet      the live picture           collector  fills it from MQTT
history    keeps it in SQLite         listing    reads it back
intervals  subtracts its sketches
conditions and description  say it in words
"""
