"""What happened, on local disk before it is acknowledged: records, segments, each worker's log, the fleet's stream."""
