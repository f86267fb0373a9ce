# Two commands do everything, set-up included: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
.DEFAULT_GOAL := help
