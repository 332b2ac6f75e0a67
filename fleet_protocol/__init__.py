"""What the programs of a fleet say to each other, and how; read `messages.py` first.

topics    where a message goes             messages  what it says, frozen and typed
codec     bytes to messages, with limits   mqtt      the client that carries them
signing   frames that change what a board does       trajectory  one window of experience
sequences sets of sequence numbers         sketch    latencies that can be merged
arrivals  a bounded queue between threads            soundness  telemetry whose numbers make sense
settings  one TOML file, EDGERL_*, flags   exit_codes  how a program ends, numbered
"""
