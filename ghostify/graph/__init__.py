"""What a network looks like: shapes without data, fx graphs of any model, its ends."""
