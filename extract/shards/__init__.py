"""Embedding a data set shard by shard, so that an interrupted run goes on."""
