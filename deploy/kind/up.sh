#!/usr/bin/env bash
# A cluster on this machine with everything that comes before csm-serving: kind, kubectl and helm are needed, and images (make images) if
# they are to be loaded. What is there already stays, so that a stopped run is started again.
#
#   deploy/kind/up.sh [IMAGE...]          images to load into the nodes
#
# Order: cluster, images, Volcano, cert-manager, Kubeflow Pipelines, secrets, csm-platform, csm-training. csm-serving follows when there is a
# release to serve: deploy/kind/serve.sh VALUES
set -euo pipefail
cd "$(dirname "$0")/../.."

volcano=https://raw.githubusercontent.com/volcano-sh/volcano/v1.12.0/installer/volcano-development.yaml
cert_manager=https://github.com/cert-manager/cert-manager/releases/download/v1.18.2/cert-manager.yaml
kfp="https://github.com/kubeflow/pipelines/manifests/kustomize/cluster-scoped-resources?ref=2.17.0"

kind get clusters | grep -qx csm || kind create cluster --config deploy/kind/cluster.yaml --wait 5m
kubectl config use-context kind-csm
for image in "$@"; do kind load docker-image --name csm "$image"; done

kubectl apply --server-side --filename "$volcano"
kubectl apply --server-side --filename "$cert_manager"
kubectl wait --namespace cert-manager --for=condition=Available --timeout=5m deployment --all
kubectl apply --server-side --kustomize "$kfp"
kubectl wait --for=condition=established --timeout=2m crd --all
kubectl apply --server-side --kustomize deploy/kfp

deploy/kind/secrets.sh
helm upgrade --install csm-platform charts/csm-platform --namespace csm-platform --wait --timeout 15m \
  --values deploy/environments/kind/csm-platform.yaml --values deploy/tenants/tenants.yaml
# secrets.sh made the tenants' namespaces, for their secrets have to be somewhere; from now on they are the chart's.
helm upgrade --install csm-training charts/csm-training --namespace csm-tenants --take-ownership --wait --timeout 10m \
  --values deploy/environments/kind/csm-training.yaml --values deploy/tenants/tenants.yaml
