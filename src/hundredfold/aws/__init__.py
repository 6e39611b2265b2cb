"""The pipeline on AWS: Athena, S3, SQS, Lambda, Step Functions, DynamoDB."""
