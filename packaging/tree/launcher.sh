#!/bin/sh
# launcher.sh PACKAGE MODULE FILE: the program of a package: MODULE's main in its private Python.
set -eu
mkdir -p "$(dirname "$3")"
sed -e "s/@PACKAGE@/$1/; s/@MODULE@/$2/; s/  # noqa.*//" "$(dirname "$0")/launcher.in" >"$3"
chmod 0755 "$3"
