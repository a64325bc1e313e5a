"""When does MixFlow help, when does it hurt? Small networks on data whose flow is known in closed form."""
