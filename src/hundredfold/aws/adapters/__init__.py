"""AWS services behind the ports: S3, SQS, DynamoDB, Athena and Glue, and the sources read from
them.
"""
