#!/usr/bin/env bash
# check.sh: the gates of the packages. Builds them into dist/ and once more elsewhere, under another locale, time zone and
# umask, and compares every byte; lintian; the exposure of the service. Stops at the first that fails.
#
# To compress takes most of the time of a build, and only tells whether one library gives the same for the same input. So
# the second build is compressed little, and what is compared is every byte that went into the archives, with their heads.
set -euo pipefail
cd "$(dirname "$0")/../.."
again=$(mktemp -d)
trap 'rm -rf "$again"' EXIT

rm -rf dist
tools/package/deb.sh
inside() { # DEB
    ar tv "$1" | awk '{ $3 = ""; print }' # without the sizes
    for archive in ctrl fsys; do dpkg-deb --$archive-tarfile "$1" | sha256sum; done
}
(umask 0027 && XZ_LEVEL=-z0 TZ=Asia/Tokyo LC_ALL=C tools/package/deb.sh --work "$again/elsewhere" --out "$again/out" 2>"$again/log") || {
    cat "$again/log" >&2
    exit 1
}
for one in dist/*.deb dist/*.cdx.json; do
    other=$again/out/$(basename "$one")
    case "$one" in
    *.deb) diff <(inside "$one") <(inside "$other") ;;
    *) cmp "$one" "$other" ;;
    esac || {
        echo "check: $one is not reproducible" >&2
        exit 1
    }
done
echo "check: two builds are the same, byte by byte" >&2
lintian --allow-root --fail-on error,warning --display-level '>=warning' --suppress-tags bad-distribution-in-changes-file dist/*.deb
echo "check: lintian has no error and no warning" >&2
tools/package/exposure.sh
