"""Many runs that answer one question together: which runs, how they are run, and what they say."""
