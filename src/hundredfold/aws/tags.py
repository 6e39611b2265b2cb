"""Tags of objects in S3, which the functions write and the bucket's lifecycle reads."""

# objects that a run no longer needs after its end, beside those below processing/
BATCH_TAG_NAME, BATCH_TAG_VALUE = "hundredfold", "batch"
BATCH_TAG = f"{BATCH_TAG_NAME}={BATCH_TAG_VALUE}"
