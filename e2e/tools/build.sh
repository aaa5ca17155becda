#!/usr/bin/env bash
# Builds the programs that the sandbox runs beside our own: the Kubernetes control plane, etcd,
# helm and, where none is installed, kubectl. Usage: build.sh DIR
#
# The versions are those of the go.mod files in this folder. A program found in
# KUBEBUILDER_ASSETS, or already in DIR and built from the same go.mod, is taken as it is.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:?usage: build.sh DIR}
mkdir -p "$out"

version_of() { # module folder, module path
  awk -v m="$2" '$1 == "require" && $2 == m { print $3 } $1 == m { print $2 }' "$here/$1/go.mod" | grep -E '^v' | head -n 1
}

build() { # program, module folder, package, ldflags
  local program=$1 folder=$2 package=$3 flags=$4 stamp
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$program" ]; then
    ln -sf "$KUBEBUILDER_ASSETS/$program" "$out/$program"
    return
  fi
  stamp=$(cat "$here/$folder/go.mod" "$here/$folder/go.sum" "${BASH_SOURCE[0]}" | cksum | tr ' ' '-')
  if [ -x "$out/$program" ] && [ "$(cat "$out/.$program.stamp" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  command -v go >/dev/null || { echo "error: building $program needs Go 1.26 or later: https://go.dev/dl" >&2; exit 1; }
  local begin=$SECONDS
  echo "building $program (cold: the control plane takes about four minutes on two cores)"
  (cd "$here/$folder" && GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w $flags" -o "$out/$program.new" "$package")
  mv "$out/$program.new" "$out/$program"
  echo "$stamp" >"$out/.$program.stamp"
  echo "built $program in $((SECONDS - begin)) s"
}

# The CRDs that AKS installs with its managed Gateway API, in one file.
gateway_api() {
  local stamp folder
  stamp=$(cat "$here/gateway-api/go.mod" "$here/gateway-api/go.sum" "${BASH_SOURCE[0]}" | cksum | tr ' ' '-')
  if [ -f "$out/gateway-api.yaml" ] && [ "$(cat "$out/.gateway-api.stamp" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  command -v go >/dev/null || { echo "error: fetching the Gateway API's CRDs needs Go 1.26 or later: https://go.dev/dl" >&2; exit 1; }
  (cd "$here/gateway-api" && go mod download)
  folder=$(cd "$here/gateway-api" && go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard
  for crd in gatewayclasses gateways httproutes tlsroutes grpcroutes referencegrants listenersets; do
    echo "---"
    cat "$folder/gateway.networking.k8s.io_$crd.yaml"
  done >"$out/gateway-api.yaml.new"
  mv "$out/gateway-api.yaml.new" "$out/gateway-api.yaml"
  echo "$stamp" >"$out/.gateway-api.stamp"
}

# Without these the control plane calls itself v0.0.0, and clients that look at the version misbehave.
kubernetes=$(version_of kubernetes k8s.io/kubernetes)
minor=${kubernetes#v1.}
minor=${minor%%.*}
stamp="-X k8s.io/component-base/version.gitVersion=$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor -X k8s.io/component-base/version.gitTreeState=clean"
helm=$(version_of helm helm.sh/helm/v4)

build etcd etcd go.etcd.io/etcd/server/v3 ""
build kube-apiserver kubernetes k8s.io/kubernetes/cmd/kube-apiserver "$stamp"
build kube-controller-manager kubernetes k8s.io/kubernetes/cmd/kube-controller-manager "$stamp"
build kube-scheduler kubernetes k8s.io/kubernetes/cmd/kube-scheduler "$stamp"
build helm helm helm.sh/helm/v4/cmd/helm "-X helm.sh/helm/v4/internal/version.version=$helm"
if ! command -v kubectl >/dev/null; then
  build kubectl kubernetes k8s.io/kubernetes/cmd/kubectl "$stamp"
fi
gateway_api
