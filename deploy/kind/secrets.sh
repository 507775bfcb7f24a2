#!/usr/bin/env bash
# Makes the secrets that the charts read, with random values, in the cluster that kubectl speaks to. One that is there stays as it is, so
# that a second run changes nothing. For clusters of one's own; elsewhere the secrets come from where the cluster keeps them.
#
#   deploy/kind/secrets.sh [TENANT...]     tenants of deploy/tenants/tenants.yaml; without any: training research
set -euo pipefail

tenants=("$@")
[ "${#tenants[@]}" -gt 0 ] || tenants=(training research)

random() { head -c 24 /dev/urandom | base64 | tr -d '+/=\n'; }

# Whether a secret is there: NAMESPACE NAME
there() { kubectl --namespace "$1" get secret "$2" >/dev/null 2>&1; }

# Makes a secret: NAMESPACE NAME KEY=VALUE...
make() {
  local namespace=$1 name=$2 words=()
  shift 2
  for pair in "$@"; do words+=("--from-literal=$pair"); done
  kubectl --namespace "$namespace" create secret generic "$name" "${words[@]}"
}

# The value of a key in a secret: NAMESPACE NAME KEY
value() { kubectl --namespace "$1" get secret "$2" --output "jsonpath={.data.$3}" | base64 --decode; }

# The same secret in another namespace, under another name: NAMESPACE NAME NAMESPACE NAME KEY...
copy() {
  local from=$1 name=$2 to=$3 as=$4 pairs=() key
  shift 4
  there "$to" "$as" && return
  for key in "$@"; do pairs+=("$key=$(value "$from" "$name" "$key")"); done
  make "$to" "$as" "${pairs[@]}"
}

namespace() {
  kubectl get namespace "$1" >/dev/null 2>&1 || kubectl create namespace "$1"
}

platform=csm-platform release=csm-tenants serving=csm-serving pipelines=kubeflow
s3=(CSM_S3_ACCESS_KEY CSM_S3_SECRET_KEY)
user=(MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD)

for name in "$platform" "$release" "$serving" "$pipelines"; do namespace "$name"; done

there "$platform" csm-postgresql || make "$platform" csm-postgresql "password=$(random)"
there "$platform" csm-mlflow-admin ||
  make "$platform" csm-mlflow-admin username=admin "password=$(random)" "secretKey=$(random)"
copy "$platform" csm-mlflow-admin "$release" csm-mlflow-admin username password

for name in admin mlflow serving "${tenants[@]}"; do
  there "$platform" "csm-s3-$name" ||
    make "$platform" "csm-s3-$name" "CSM_S3_ACCESS_KEY=$name-$(random)" "CSM_S3_SECRET_KEY=$(random)"
done
copy "$platform" csm-s3-admin "$release" csm-s3-admin "${s3[@]}"
copy "$platform" csm-s3-serving "$serving" csm-s3-serving "${s3[@]}"
there "$serving" csm-serving-keys ||
  make "$serving" csm-serving-keys "turn_key=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')"

for name in "${tenants[@]}"; do
  there "$release" "csm-mlflow-$name" ||
    make "$release" "csm-mlflow-$name" "MLFLOW_TRACKING_USERNAME=$name" "MLFLOW_TRACKING_PASSWORD=$(random)"
done

# Where steps run: each tenant's own namespace, and that of a Kubeflow Pipelines whose steps all run in its own (the first tenant's).
give() {
  copy "$platform" "csm-s3-$1" "$2" csm-storage "${s3[@]}"
  copy "$release" "csm-mlflow-$1" "$2" csm-tracking "${user[@]}"
  copy "$release" "csm-mlflow-$1" "$2" kfp-mlflow-credentials "${user[@]}"
}
for name in "${tenants[@]}"; do
  namespace "csm-$name"
  give "$name" "csm-$name"
done
give "${tenants[0]}" "$pipelines"
