#!/usr/bin/env python3
"""moto's server with two rules of Amazon's that moto itself does not keep: a lock in mode COMPLIANCE is never shortened or
made another, and one in mode GOVERNANCE only by who bypasses it; a bucket with object lock never stops to keep versions.

moto-locks.py ARGUMENTS OF moto_server"""

import sys

from moto.s3.exceptions import AccessDeniedByLock, InvalidBucketState
from moto.s3.models import FakeBucket, S3Backend
from moto.server import main

put_retention = S3Backend.put_object_retention
put_versioning = S3Backend.put_bucket_versioning


def guarded(self, bucket_name, key_name, version_id, retention):
    key = self.get_object(bucket_name, key_name, version_id=version_id)
    mode, until = retention
    if key is not None and key.is_locked(governance_bypass=False):
        if mode != key.lock_mode or (until or "") < key.lock_until:
            raise AccessDeniedByLock
    return put_retention(self, bucket_name, key_name, version_id, retention)


def versioning(self, bucket_name, status):
    if self.get_bucket(bucket_name).object_lock_enabled and status != "Enabled":
        raise AccessDeniedByLock
    return put_versioning(self, bucket_name, status)


S3Backend.put_object_retention = guarded
S3Backend.put_bucket_versioning = versioning
main(sys.argv[1:])
