from tests import composing

composing.install()
