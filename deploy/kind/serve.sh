#!/usr/bin/env bash
# Serves a release in the cluster of up.sh, and waits until it is ready.
#
#   deploy/kind/serve.sh VALUES           the values file that the step deploy wrote: CSM_STORAGE/releases/MODEL/values.yaml
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$#" -eq 1 ] || { echo "usage: deploy/kind/serve.sh VALUES" >&2; exit 2; }
helm upgrade --install csm-serving charts/csm-serving --namespace csm-serving --wait --timeout 15m \
  --values deploy/environments/kind/csm-serving.yaml --values dist/images/csm-serving.yaml --values "$1"
