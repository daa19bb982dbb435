package kube

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func defaultService(s *corev1.Service) {
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if s.Spec.InternalTrafficPolicy == nil && s.Spec.Type != corev1.ServiceTypeExternalName {
		s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	switch spec := &s.Spec; {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		spec.ClusterIP = spec.ClusterIPs[0]
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		defaultProtocol(&p.Protocol)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func validateService(s *corev1.Service) (errs field.ErrorList) {
	spec, at := &s.Spec, field.NewPath("spec")
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if len(spec.Ports) == 0 && spec.ClusterIP != corev1.ClusterIPNone {
			errs = append(errs, field.Required(at.Child("ports"), "only a headless Service may have none"))
		}
	case corev1.ServiceTypeExternalName:
		errs = append(errs, invalid(validation.IsDNS1123Subdomain(spec.ExternalName), spec.ExternalName, at.Child("externalName"))...)
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), spec.Type, []string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}))
	}
	errs = append(errs, validateClusterIPs(spec, at)...)
	return append(errs, validateServicePorts(spec.Ports, at.Child("ports"))...)
}

func validateClusterIPs(spec *corev1.ServiceSpec, at *field.Path) (errs field.ErrorList) {
	list := at.Child("clusterIPs")
	switch {
	case len(spec.ClusterIPs) == 0:
		return nil
	case spec.ClusterIPs[0] != spec.ClusterIP:
		return field.ErrorList{field.Invalid(at.Child("clusterIP"), spec.ClusterIP, "must be the first of clusterIPs")}
	case spec.Type == corev1.ServiceTypeExternalName:
		return field.ErrorList{field.Forbidden(list, "an ExternalName Service has no address")}
	case len(spec.ClusterIPs) > 2:
		return field.ErrorList{field.TooMany(list, len(spec.ClusterIPs), 2)}
	case spec.ClusterIP == corev1.ClusterIPNone && len(spec.ClusterIPs) == 1:
		return nil
	}
	for i, ip := range spec.ClusterIPs {
		errs = append(errs, validateIP(ip, list.Index(i))...)
	}
	if len(errs) == 0 && len(spec.ClusterIPs) == 2 &&
		netip.MustParseAddr(spec.ClusterIPs[0]).Is4() == netip.MustParseAddr(spec.ClusterIPs[1]).Is4() {
		errs = append(errs, field.Invalid(list, spec.ClusterIPs, "must be one IPv4 and one IPv6 address"))
	}
	return errs
}

func validateServicePorts(ports []corev1.ServicePort, at *field.Path) (errs field.ErrorList) {
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, p := range ports {
		path := at.Index(i)
		switch {
		case p.Name == "" && len(ports) > 1:
			errs = append(errs, field.Required(path.Child("name"), "a Service with several ports names each"))
		case p.Name != "" && names[p.Name]:
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		case p.Name != "":
			errs = append(errs, invalid(validation.IsDNS1123Label(p.Name), p.Name, path.Child("name"))...)
		}
		names[p.Name] = true
		number := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if numbers[number] {
			errs = append(errs, field.Duplicate(path, number))
		}
		numbers[number] = true
		errs = append(errs, validateNumber(p.Port, path.Child("port"))...)
		errs = append(errs, validateProtocol(p.Protocol, path.Child("protocol"))...)
		if p.TargetPort != intstr.FromInt32(p.Port) {
			errs = append(errs, validateTargetPort(p.TargetPort, path.Child("targetPort"))...)
		}
		if p.AppProtocol != nil {
			errs = append(errs, invalid(validation.IsQualifiedName(*p.AppProtocol), *p.AppProtocol, path.Child("appProtocol"))...)
		}
	}
	return errs
}

func validateTargetPort(target intstr.IntOrString, at *field.Path) field.ErrorList {
	if target.Type == intstr.Int {
		return validateNumber(target.IntVal, at)
	}
	return invalid(validation.IsValidPortName(target.StrVal), target.StrVal, at)
}
