"""Structure of any network: shapes without data, fx graphs, blocks and stages."""
