"""A plugin of pytest that leaves out the checks for overflow of Triton's interpreter, which are half of its work.

They follow every sum and product of integers. What is compiled has them in debug mode alone, and no size that is
interpreted in seconds comes near 2**31.
"""

from dataclasses import replace

from triton.runtime.interpreter import interpreter_builder

interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)
