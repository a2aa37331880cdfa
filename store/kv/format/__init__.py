"""The stored form: keys, and the encoded values of records, claims and schedules. `base` is what drivers implement."""
