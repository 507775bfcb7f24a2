#!/usr/bin/env bash
# Removes the cluster of up.sh with everything in it, and its registry.
set -euo pipefail

kind delete cluster --name csm
docker rm --force --volumes csm-registry
