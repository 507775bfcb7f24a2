#!/usr/bin/env bash
# A cluster on this machine with everything that comes before csm-serving; docker, kind, kubectl and helm are needed. What is there already
# stays, so that a stopped run is started again. Without images it starts a registry for them, and says how they get into it.
#
#   deploy/kind/up.sh
#
# Order: registry, cluster, images, Volcano, cert-manager, Kubeflow Pipelines, secrets, csm-platform, csm-training. csm-serving follows when
# there is a release to serve: deploy/kind/serve.sh VALUES
set -euo pipefail
cd "$(dirname "$0")/../.."

registry=localhost:5001 images=dist/images   # what make images writes
volcano=https://raw.githubusercontent.com/volcano-sh/volcano/v1.12.0/installer/volcano-development.yaml
cert_manager=https://github.com/cert-manager/cert-manager/releases/download/v1.18.2/cert-manager.yaml
kfp="https://github.com/kubeflow/pipelines/manifests/kustomize/cluster-scoped-resources?ref=2.17.0"

# Fetches a public image and gives its digest: IMAGE
public() {
  docker pull --quiet "$1" >/dev/null
  docker image inspect --format '{{index .RepoDigests 0}}' "$1" | sed 's/.*@//'
}

# The charts name images by digest, which an image that is only loaded into a node has none of: hence a registry.
docker container inspect csm-registry >/dev/null 2>&1 ||
  docker run --detach --restart=always --name csm-registry --publish 127.0.0.1:5001:5000 docker.io/library/registry:3
grep -qs "$registry" "$images/csm-platform.yaml" || {
  echo "error: $images has no images of $registry: make images ARGS='--registry $registry/csm-foundry --push --python-digest sha256:...'" >&2
  exit 2
}
kind get clusters | grep -qx csm || kind create cluster --config deploy/kind/cluster.yaml --wait 5m
kubectl config use-context kind-csm
docker network inspect kind --format '{{range .Containers}}{{.Name}} {{end}}' | grep -qw csm-registry ||
  docker network connect kind csm-registry
for node in $(kind get nodes --name csm); do
  docker exec "$node" mkdir -p "/etc/containerd/certs.d/$registry"
  echo '[host."http://csm-registry:5000"]' | docker exec --interactive "$node" tee "/etc/containerd/certs.d/$registry/hosts.toml"
done

for role in data train; do   # under the names that deploy/profiles/kind.yaml has
  image=$(sed -n "s/^  $role: //p" "$images/profile.yaml")
  docker pull --quiet "$image"
  docker tag "$image" "localhost/csm-foundry/$role:dev"
  kind load docker-image --name csm "localhost/csm-foundry/$role:dev"
done

kubectl apply --server-side --filename "$volcano"
kubectl apply --server-side --filename "$cert_manager"
kubectl wait --namespace cert-manager --for=condition=Available --timeout=5m deployment --all
kubectl apply --server-side --kustomize "$kfp"
kubectl wait --for=condition=established --timeout=2m crd --all
kubectl apply --server-side --kustomize deploy/kfp

deploy/kind/secrets.sh
helm upgrade --install csm-platform charts/csm-platform --namespace csm-platform --wait --timeout 15m \
  --values deploy/environments/kind/csm-platform.yaml --values deploy/tenants/tenants.yaml \
  --values "$images/csm-platform.yaml" \
  --set "postgresql.image.digest=$(public docker.io/library/postgres:17)" \
  --set "seaweedfs.image.digest=$(public docker.io/chrislusf/seaweedfs:4.34)" \
  --set "pushgateway.image.digest=$(public docker.io/prom/pushgateway:v1.11.1)"
# secrets.sh made the tenants' namespaces, for their secrets have to be somewhere; from now on they are the chart's.
helm upgrade --install csm-training charts/csm-training --namespace csm-tenants --take-ownership --wait --timeout 10m \
  --values deploy/environments/kind/csm-training.yaml --values deploy/tenants/tenants.yaml \
  --set "prepare.image.digest=$(sed -n 's/^  digest: //p' "$images/csm-platform.yaml")"
