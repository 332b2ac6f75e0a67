"""Who belongs to a fleet: certificates, and the broker that knows them.

Read `fleet_folder.py` first: what `edgerl broker init`, `enroll`, `renew` and `revoke` do;
then `depot.py`: how a board that makes its own key gets a certificate.
"""
