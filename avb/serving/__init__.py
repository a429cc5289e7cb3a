"""avb-serve: scores and events over HTTP, live events over a WebSocket; needs the extra `serve`.

avb-serve emogator-small                            # http://127.0.0.1:8000, for this machine only
python -m avb.serving.listen evening.wav            # events of a recording, or of a microphone, live
"""
