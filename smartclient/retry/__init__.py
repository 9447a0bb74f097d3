"""Whether, when and with what body a failed call is sent again."""
