{{/*
What the operator may do in a namespace that it serves; the same list for the ClusterRole and for the Roles of namespaced
mode. An end-to-end test compares it with the API server's audit log: nothing denied, nothing unused.
Server-side apply is "patch", and "create" where the object is not there yet.
*/}}
{{- define "tandem.rules" -}}
- apiGroups: [tandem.dev]
  resources: [modeldeployments, modelblueprints, modeljobs, modelroutes]
  verbs: [list, watch]
- apiGroups: [tandem.dev]
  resources: [modeldeployments/status, modelblueprints/status, modeljobs/status, modelroutes/status]
  verbs: [patch]
# The blueprint of a deployment that names none, shared by all that have the same model.
- apiGroups: [tandem.dev]
  resources: [modelblueprints]
  verbs: [create, patch, delete]
# A pod that reads the model's config.json from its volume, or from a hub.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create]
# Asked for by clusters that enforce blockOwnerDeletion (admission plugin OwnerReferencesPermissionEnforcement).
- apiGroups: [tandem.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
# Children of a ModelDeployment.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Workers of several nodes, in clusters that serve the kind.
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# What the operator gives to a router it must hold itself, else creating that Role would be privilege escalation.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
# Root causes are read from pods and events.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
