#!/usr/bin/env bash
# Serves a release in the cluster of up.sh, and waits until it is ready.
#
#   deploy/kind/serve.sh VALUES [TAG]     the values file that the step deploy wrote: CSM_STORAGE/releases/MODEL/values.yaml
set -euo pipefail
cd "$(dirname "$0")/../.."

[ "$#" -ge 1 ] || { echo "usage: deploy/kind/serve.sh VALUES [TAG]" >&2; exit 2; }
digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "localhost:5001/csm-foundry/serve:${2:-dev}" | sed 's/.*@//')
helm upgrade --install csm-serving charts/csm-serving --namespace csm-serving --wait --timeout 15m \
  --values deploy/environments/kind/csm-serving.yaml --values "$1" --set "image.digest=$digest"
