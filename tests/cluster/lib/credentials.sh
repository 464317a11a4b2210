# shellcheck shell=bash
# The cluster's certificates and the kubeconfigs made of them. To be sourced.

# certificate NAME SUBJECT [EXTENSION]: a key and a certificate signed by the cluster's authority.
certificate() {
	local file=$STATE/pki/$1 subject=$2 extension=${3:-extendedKeyUsage=clientAuth}
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj "$subject" \
		-keyout "$file.key" -out "$file.csr" 2>/dev/null
	openssl x509 -req -days 3650 -in "$file.csr" -CA "$STATE/pki/ca.crt" -CAkey "$STATE/pki/ca.key" \
		-extfile <(printf '%s\n' "$extension") -out "$file.crt" 2>/dev/null
}

# kubeconfig NAME FILE: how the holder of the certificate NAME reaches the API server.
kubeconfig() {
	local file=$STATE/pki/$1
	cat >"$2" <<-EOF
		apiVersion: v1
		kind: Config
		current-context: stoker-$NAME
		contexts: [{name: stoker-$NAME, context: {cluster: stoker-$NAME, user: $1}}]
		clusters:
		- name: stoker-$NAME
		  cluster:
		    server: https://$NODE_IP:6443
		    certificate-authority-data: $(base64 --wrap=0 "$STATE/pki/ca.crt")
		users:
		- name: $1
		  user:
		    client-certificate-data: $(base64 --wrap=0 "$file.crt")
		    client-key-data: $(base64 --wrap=0 "$file.key")
	EOF
}

make_credentials() {
	local pki=$STATE/pki component
	mkdir -p "$pki"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 \
		-subj "/CN=stoker-$NAME" -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
	openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$pki/service-account.key" 2>/dev/null
	openssl pkey -in "$pki/service-account.key" -pubout -out "$pki/service-account.pub"

	certificate apiserver /CN=kube-apiserver \
		"subjectAltName=IP:$NODE_IP,IP:$API_SERVICE_IP,DNS:kubernetes.default.svc,DNS:kubernetes.default"
	certificate apiserver-to-kubelet /O=system:masters/CN=kube-apiserver
	certificate admin /O=system:masters/CN=admin
	certificate kubelet "/O=system:nodes/CN=system:node:$NAME"
	for component in controller-manager proxy scheduler; do
		certificate "$component" "/CN=system:kube-$component"
	done

	for component in controller-manager kubelet proxy scheduler; do
		kubeconfig "$component" "$pki/$component.kubeconfig"
	done
	kubeconfig admin "$KUBECONFIG"
	chmod -R go= "$pki" "$KUBECONFIG"
}
