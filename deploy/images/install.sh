#!/bin/sh
# Installs locked packages inside a build of an image (deploy/images/Containerfile).
#
#   install.sh FILE             into /opt/csm, by uv, every file checked against the lock's hashes
#   install.sh --builder FILE   uv and hatchling into /opt/build, by pip
#   install.sh --project WHEEL  the project's own wheel into /opt/csm, by uv
#
# Where packages come from is a secret of the build and stays out of the image: `index` holds PIP_* and UV_* settings as
# a shell reads them, `ca` the certificates to trust. Without them, PyPI.
set -eu
if [ -f /run/secrets/index ]; then
  set -a
  . /run/secrets/index
  set +a
fi
if [ -f /run/secrets/ca ]; then
  export PIP_CERT=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
export UV_CACHE_DIR="${UV_CACHE_DIR:-/var/cache/uv}" UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
# The root file system is read-only where the image runs, so modules are compiled here; by their content, because file
# times are not kept.
export PYC_INVALIDATION_MODE=UNCHECKED_HASH UV_COMPILE_BYTECODE=1
case "$1" in
  --builder)
    python3.11 -m venv /opt/build
    /opt/build/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check \
      --no-deps --require-hashes --requirement "$2"
    ;;
  --project)
    /opt/build/bin/uv pip install --quiet --python /opt/csm/bin/python3 --offline --no-deps --no-cache "$2"
    ;;
  *)
    /opt/build/bin/uv pip install --quiet --python /opt/csm/bin/python3 --no-deps --require-hashes --requirement "$1"
    ;;
esac
